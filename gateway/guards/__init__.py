"""Guards: what looks at the texts of requests and answers, by policy. Data plane."""
