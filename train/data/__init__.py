"""From conversations to packed batches of tokens.

The path of a row: json_rows, sharegpt, builder, sources (documents), tokens, pipeline and packing
(batches), inputs (what the loop reads). epochs counts the batches; show prints them.
"""
