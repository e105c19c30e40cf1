"""What models saw in a slide, laid over it: pictures, polygons, and raw scores, on the grid that was trained on."""
