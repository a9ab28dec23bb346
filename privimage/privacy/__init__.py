"""Everything that the privacy guarantee rests on: read this folder alone to audit it. Beside it
stand image sets, the machine, and `privimage.files.swapped_file`, which keeps the ledger's file.
"""
