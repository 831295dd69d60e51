"""Files that travel with a published model, for `mlflow.pyfunc.load_model`.

Each stands alone, since whoever loads the model need not have boig.
"""
