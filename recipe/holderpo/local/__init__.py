"""What the CPU run needs and makes itself: small models, generated problems, and a cache for both."""
