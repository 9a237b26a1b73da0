"""One retriable unit of work a function.

The only place where Prefect, MLflow, DVC and Great Expectations meet `model/`.
"""
