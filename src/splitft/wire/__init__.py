"""What crosses the cut: messages, their encoding, codecs, channels, sample memories and the byte ledger."""
