"""What networks are made of, and how weights enter and leave them."""
