"""The hub's cache: models that huggingface_hub fetched, by their folders and by their ids.

`layout` knows the folders, `wanted` which files of a model are of use, `lookup` finds an id, and
`fetch` fetches what is asked for. Only the last two import the library.
"""
