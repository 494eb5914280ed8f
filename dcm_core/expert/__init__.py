"""An expert: the layers it changes, its file, its fit to a backbone, and how it runs beside one."""
