"""De-identification by allow-list: a new data set is built, checked and proved."""
