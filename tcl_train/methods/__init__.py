"""What a training step is: from views and labels to a loss."""
