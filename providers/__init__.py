"""Who can be called: providers, endpoints, models, discovery (Django), and `adapters`, which are pure."""
