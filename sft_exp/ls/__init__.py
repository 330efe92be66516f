"""List what is in the store, and what it cost."""
