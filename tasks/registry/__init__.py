"""MLflow: runs, metrics that are never lost, versions with their signed files, aliases.

The only wing that imports mlflow, beside `promotion`. Imports `runtime`, `data` and `pages`.
"""
