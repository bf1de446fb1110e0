"""holdfast keeps an aligned language model aligned while it is fine-tuned."""
