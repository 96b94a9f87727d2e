"""Numbers that jobs and competitors share."""

# MobileNetV2 1.0: side of its input, and its multiply-adds for one image as mbv2kit.analysis.complexity counts them.
SIZE = 224
MADDS = 300_774_272
# Rows and columns of the matrices that show what a machine can do.
PRODUCT_SIDE = 2048
