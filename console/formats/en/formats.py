"""Times as the console's own pages write them, with their zone. Control plane."""

DATE_FORMAT = "Y-m-d"
DATETIME_FORMAT = "Y-m-d H:i:s T"
