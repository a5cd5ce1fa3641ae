"""What Keras 3 has by itself, and so needs of nobody."""
