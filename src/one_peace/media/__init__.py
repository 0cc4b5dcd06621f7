"""Pictures, sounds, videos and maps of any usual form, decoded: what modalities are fed with."""
