"""Clean images and the training dataset made of them."""
