"""Files that hold many images, and the one name for an image inside one: ``file#item``."""
