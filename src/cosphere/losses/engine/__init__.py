"""The two engines of the losses, of pairs and of class weights, and what all losses share."""
