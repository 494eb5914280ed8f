"""Networks as methods use them: calls, adapters, averages, features, discriminator, and weights in and out."""
