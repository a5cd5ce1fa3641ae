"""What labels tell: how well the rows are retrieved, and which classes and groups pay for the drift."""
