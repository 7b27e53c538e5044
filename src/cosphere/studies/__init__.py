"""Studies: questions about training methods, asked as data and answered with intervals and a verdict."""
