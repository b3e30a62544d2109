"""What attention does while it is trained: Tian, Wang, Chen, Du, "Scan and Snap", NeurIPS 2023 (arXiv 2305.16380).

One softmax head over a context of tokens, a query, a next token. Attention first scans, dropping common tokens and rare
distinct ones, then snaps: it nearly stops, once the decoder predicts well.
"""
