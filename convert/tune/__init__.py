"""Fine-tuning: a quantized file's weights and biases, trained to answer as the float model does, without labels."""
