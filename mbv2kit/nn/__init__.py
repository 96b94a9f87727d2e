"""Building blocks of networks: layers, boxes, feature maps, interpolation."""
