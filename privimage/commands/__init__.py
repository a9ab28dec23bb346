"""The commands of `privimage`: thin layers over the library, and all that it says in a terminal."""
