"""Small modules and pure functions that models are put together from."""
