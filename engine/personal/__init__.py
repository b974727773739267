"""Personal data of events: encrypted for each person, and erased by destroying his key.

What comes in: JSON of personal fields with the name of their subject, and what has been encrypted.
What leaves: what is stored, and what it says, or that it was erased.
To read in this order: `vault` (keys in use), `lost` (keys that are not there), `erasing` (what
follows the destruction of a key).
"""
