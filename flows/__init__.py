"""What runs when: flows read as tables of contents."""
