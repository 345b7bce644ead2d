"""The models that come with the package: how they were trained on the small world, and how they are checked."""
