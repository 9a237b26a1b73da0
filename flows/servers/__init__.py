"""The servers of `make up`: where they listen, who may enter, how they are deployed to.

Imports `tasks.runtime` and `tasks.pages`, and no MLflow: a server is named to uvicorn.
"""
