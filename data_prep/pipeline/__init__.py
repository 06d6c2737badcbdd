"""What every data set shares: a listing goes in, a prepared folder comes out."""
