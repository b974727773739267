"""Several engines that share one modelled log: owner, members and the lines between them."""
