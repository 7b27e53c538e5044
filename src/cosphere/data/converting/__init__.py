"""Copy a data set into another form: RecordIO, class folders, a zip archive, or a table with its images."""
