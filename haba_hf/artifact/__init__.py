"""
A distilled data set: its model and processors, whose files (`*_haba.py`) travel with the weights and import only each
other, how both are loaded, paired into batches, and what they cost.
"""
