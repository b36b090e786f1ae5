"""Sources larger than memory: read as a stream into clean shards on disk, split and without duplicates.

Three passes, each in bounded memory and each resumable (`lwc.data.ingest.run`):
read (`part`: one block of the source becomes one part on disk), compare (`dedupe`: sorted hashes, merged range by
range), write (`shards`: the kept rows of each split).
"""
