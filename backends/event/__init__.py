"""The event-driven backend: the same spikes as the definition, at the cost of the spikes alone."""
