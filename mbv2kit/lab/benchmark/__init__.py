"""How fast the models here are, measured against what people would use instead, each in a process of its own."""
