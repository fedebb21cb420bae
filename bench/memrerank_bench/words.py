"""Words that the usual tokenizers have as one token each, with the space before them."""

_LINES = """
about after again water house small found still between name should home give line under last never great where much
before right means same tell does want well also play end put read hand large spell even land here must big high such
follow act why ask men change went light kind off need try picture animal point mother world near build self earth
father head stand own page country answer school grow study learn plant cover food sun four state keep
"""
WORDS = _LINES.split()
