"""What runs, in which order: the recipe, with no tensor, SQL or file format in it."""
