"""How Django itself writes dates and times; a package for each language, as Django wants it. Control plane."""
