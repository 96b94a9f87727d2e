"""Constants that jobs and competitors share."""

# MobileNetV2 1.0: side of the input, and multiply-adds for one image by mbv2kit.analysis.complexity.
SIZE = 224
MADDS = 300_774_272
# Rows and columns of the matrices that measure the peak rate of a machine.
PRODUCT_SIDE = 2048
