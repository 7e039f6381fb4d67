"""In and out: data sets become annotated tasks, versions become models that need no segloop."""
