"""Data at full size: a source is read as a stream into cleaned, de-duplicated, split shards on disk.

Three passes, each in bounded memory and each resumed shard by shard (`lwc.data.ingest.run` is the line):
read (`part`: one block of the source becomes one part on disk), compare (`dedupe`: sorted runs of hashes, merged
partition by partition), write (`shards`: what is kept, by split).
"""
