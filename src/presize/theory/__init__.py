"""Two published results on the self-attention layer, as libraries: depth against width, and scan and snap."""
