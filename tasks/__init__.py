"""One retriable unit of work a function: the only place where Prefect, MLflow, DVC and GX meet model/."""
