"""Teams, projects, API keys and admin tokens. Control plane."""
