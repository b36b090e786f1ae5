"""One module for each data source; its ``SOURCE`` is named by a settings class in `lwc.recipe.data`."""
