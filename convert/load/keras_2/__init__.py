"""Files of Keras 2, read by the library that wrote them (tf-keras), after they were looked into."""
