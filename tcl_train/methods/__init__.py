"""Training methods: from views and labels to a loss."""
