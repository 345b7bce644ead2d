"""Pages that let a person look at the pairs of a run or an import in a browser: ``reverie show``."""
